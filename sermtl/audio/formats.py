"""Opening audio of any format: by libsndfile, else by ffmpeg; and what files are that hold no audio."""

import io
import os
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import soundfile

from sermtl.errors import UserError

FFMPEG_SUFFIXES = frozenset({".3gp", ".aac", ".amr", ".m4a", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"})
"""File names that are audio for ffmpeg alone."""


def open_sound(file: str | BinaryIO, name: str) -> soundfile.SoundFile:
    """Open a path or a file in memory; `UserError` about ``name`` where it holds no audio, or ffmpeg is not there."""
    try:
        return soundfile.SoundFile(os.fsencode(file) if isinstance(file, str) else file)
    except soundfile.LibsndfileError as error:
        with open(file, "rb") if isinstance(file, str) else nullcontext(file) as opened:
            opened.seek(0)
            other = other_content(opened.read(1024))
        if other:
            raise UserError(f"{name}: {other}") from error
        if isinstance(file, str) and Path(file).suffix.lower() in FFMPEG_SUFFIXES | {".opus"}:
            return soundfile.SoundFile(decoded_by_ffmpeg(file))
        raise UserError(f"{name}: not readable as audio ({error.error_string.rstrip('.')})") from error


def other_content(head: bytes) -> str:
    """What a file without audio is by its first bytes: an LFS pointer or a web page; empty where it is neither."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in the place of the audio: run `git lfs pull` in its repository"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page in the place of the audio, as a failed download leaves it: download it again"
    return ""


def decoded_by_ffmpeg(path: str) -> BinaryIO:
    """The first audio stream of a file as AU, float32, at its rate and channels; `UserError` where ffmpeg has none."""
    if not shutil.which("ffmpeg"):
        raise UserError(f"{path}: this format is read by ffmpeg, which is not installed; install it, or convert to WAV")
    # No protocol but files: a playlist inside must not make ffmpeg load from the network.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", os.path.abspath(path)]
    result = subprocess.run([*command, "-vn", "-c:a", "pcm_f32be", "-f", "au", "-"], capture_output=True)
    if result.returncode or not result.stdout:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{path}: not readable as audio (ffmpeg: {' '.join(last) or 'no audio in it'})")
    return io.BytesIO(result.stdout)
