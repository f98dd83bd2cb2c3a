"""What killed my process, and why?  Every fatal signal on Linux, with its true origin."""

__version__ = "0.1.0"
