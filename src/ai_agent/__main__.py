"""`python -m ai_agent`."""

from ai_agent.cli import main

main()
