"""When the device may work for itself: the schedule, what is seen of device and people, the decision, the watch."""
