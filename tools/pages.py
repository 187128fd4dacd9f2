"""What the scripts that generate pages share: write a page, or say that it is out of date."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settle(pages: dict[Path, str], command: str) -> int:
    """Write the pages; with `--check` on the command line, compare instead. Returns the exit code."""
    if sys.argv[1:] not in ([], ["--check"]):
        print(f"usage: {command} [--check]", file=sys.stderr)
        return 2
    old = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in old:
        if sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date\n  -> {command}", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
    return 1 if old and sys.argv[1:] else 0
