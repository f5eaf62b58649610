"""The same session against soketi and against this server: what soketi said is recorded, what differs has a reason."""
