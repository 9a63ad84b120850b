"""`python -m fairclip` is the command `fairclip`."""

from fairclip.cli import main

main()
