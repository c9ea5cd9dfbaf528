"""From score files to pages, tables and figures for people."""
