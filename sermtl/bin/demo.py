"""A demo page for a model: upload or record audio, see the posteriors, also over time, and the transcript.

    pip install 'sermtl[demo]'
    python -m sermtl.bin.demo --model exp/<tag>/<fold>/pack

The page is served on 127.0.0.1 only, loads nothing from other hosts, and deletes all uploads at the end.
"""

import argparse
import contextlib
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from sermtl.errors import UserError, command

HOST = "127.0.0.1"


@command
def main() -> None:
    """Serve the page until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="a fold, a pack, or exp/<tag> (all its folds)")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1 (default: 7860; 0: a free one)")
    parser.add_argument("--max_mb", type=float, default=50, help="largest upload in MB (default: 50)")
    parser.add_argument("--max_minutes", type=float, default=30, help="longest recording in minutes (default: 30)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # the end that Ctrl-C makes
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="sermtl-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio  # noqa: F401 (after the environment is set)
        except ImportError as error:
            raise UserError(
                f"the page needs a package that is not installed ({error.name}): pip install 'sermtl[demo]'"
            ) from error
        serve(args)
    os._exit(0)  # a request that still runs would abort an interpreter that ends in order


def serve(args: argparse.Namespace) -> None:
    """Load the model and serve the page until interrupted; `UserError` for no such model, or an unusable port."""
    import gradio as gr
    import torch
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from sermtl.inference.inputs import Item, seconds_of
    from sermtl.inference.plot import draw
    from sermtl.inference.predict import Speech2Emotion

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = Speech2Emotion.from_pretrained(args.model, args.device)

    def predict(path: str | None) -> tuple[dict[str, float], str, str]:
        try:
            if path is None:
                raise UserError("upload or record audio first")
            if (seconds := seconds_of(path)) > 60 * args.max_minutes:
                raise UserError(f"{seconds:.0f} s of audio; this page takes up to {60 * args.max_minutes:.0f} s")
            ((_, result),) = model.files([path])
            if isinstance(result, UserError):
                raise result
            drawn = Path(path).with_name("timeline.png")  # deleted with the upload
            draw(model, Item(path), result, drawn)
        except UserError as error:
            message = str(error).removeprefix(f"{path}: ")
            raise gr.Error(message, print_exception=False) from error
        return result.scores, result.text or "(no words)", str(drawn)

    # Without `buttons`, there is one that sends audio to a public site.
    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Audio", buttons=[])
    picture = gr.Image(label="Posteriors over time", show_label=False, buttons=["fullscreen"])
    page = gr.Interface(
        predict, audio, [gr.Label(label="Emotion"), gr.Textbox(label="Transcript"), picture],
        title="Emotion and words from speech", flagging_mode="never", analytics_enabled=False, concurrency_limit=1,
        delete_cache=(600, 600),
    )  # fmt: skip
    # Names that other sites could give to this address are refused.
    options: dict[str, Any] = {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]}
    os.environ["no_proxy"] = HOST  # Gradio asks the page whether it is there
    try:
        with socket.socket() as free:
            free.bind((HOST, args.port))
            port = free.getsockname()[1]
        _, url, _ = page.launch(
            share=False, server_name=HOST, server_port=port, prevent_thread_lock=True, quiet=True, ssr_mode=False,
            max_file_size=int(args.max_mb * 1e6), footer_links=[], theme=gr.themes.Base(font="system-ui"),
            app_kwargs=options,
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        raise UserError(f"port {args.port} of {HOST} cannot be used ({error}); give another --port") from error
    print(f"Open {url} in a browser on this computer; Ctrl-C ends it.", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    raise SystemExit(main())
