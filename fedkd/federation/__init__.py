"""Messages, coordinator, clients, fleets and stored state."""
