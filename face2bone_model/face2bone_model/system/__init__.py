"""What both sides need of the operating system: files that survive a crash, processes that are stopped."""
