"""``python -m fastk.shuffle INPUT... OUTPUT``."""

from .cli import main

raise SystemExit(main())
