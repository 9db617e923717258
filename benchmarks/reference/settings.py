"""What both reference applications read from the environment."""

import os

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
POOL_SIZE = int(os.environ.get("BENCH_POOL_SIZE", "20"))
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
JWT_SECRET = os.environ.get("BENCH_JWT_SECRET", "")
# So high that it is never hit; it is checked all the same.
LIMIT_PER_MINUTE = int(os.environ.get("BENCH_LIMIT_PER_MINUTE", "100000"))
