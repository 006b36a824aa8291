"""`python -m kilonet` is the command `kilonet`."""

from kilonet.cli import main

raise SystemExit(main())
