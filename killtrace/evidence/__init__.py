"""Other records that the machine keeps: kernel log, journal, audit, process accounting."""
