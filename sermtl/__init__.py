"""Speech emotion recognition by multi-task learning with speaker normalisation."""
