"""What the pure tests share: few examples and no deadline, because the machine may be busy."""

from hypothesis import settings

settings.register_profile("unit", max_examples=60, deadline=None, database=None)
settings.load_profile("unit")
