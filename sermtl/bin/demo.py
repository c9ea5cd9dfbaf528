"""A page on this computer to try a model: drop or record audio, see posteriors, the timeline, the transcript.

    python -m sermtl.bin.demo --model exp/<tag>/<fold>/pack

The page is served on 127.0.0.1 only, loads nothing from elsewhere, and keeps no audio.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from sermtl.errors import UserError, command


@command
def main() -> None:
    """Serve the page until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="a fold, a pack, exp/<tag>")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1 (0: a free one)")
    parser.add_argument("--max_mb", type=float, default=50, help="largest upload, in MB")
    parser.add_argument("--max_minutes", type=float, default=30, help="longest recording")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    args = parser.parse_args()
    import torch

    from sermtl.demo.server import Demo, about
    from sermtl.inference.predict import Speech2Emotion

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = Speech2Emotion.from_pretrained(args.model, args.device)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # the end that Ctrl-C makes
    try:
        demo = Demo(model, args.port, int(args.max_mb * 1e6), args.max_minutes * 60, about(model))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {args.port} of 127.0.0.1 cannot be used ({error}); give another --port") from error
    print(f"Open {demo.url} in a browser on this computer; Ctrl-C ends it.", flush=True)
    with demo, contextlib.suppress(KeyboardInterrupt):
        demo.serve_forever()
    os._exit(0)  # a thread that still hears an upload cannot be stopped, and aborts an interpreter that ends in order


if __name__ == "__main__":
    sys.exit(main())
