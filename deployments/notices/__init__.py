"""What people are told of runs, devices and the disk: who is concerned, the messages, the ways they are sent."""
