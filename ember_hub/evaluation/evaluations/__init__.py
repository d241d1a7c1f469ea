"""What every model state is asked, before anybody attacks it."""
