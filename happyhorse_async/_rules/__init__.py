"""What the service means, as functions over values: no clock, no socket, no sleep, no log."""
