"""Write the corpus to a folder: python -m tests.corpus DIR."""

import sys
from pathlib import Path

from tests.corpus import corpus

if len(sys.argv) != 2:
    raise SystemExit("usage: python -m tests.corpus DIR")
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
count = 0
for name, data in corpus():
    (folder / name).write_bytes(data)
    count += 1
print(f"{count} files in {folder}")
