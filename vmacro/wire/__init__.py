"""What programs of vmacro say to each other: agent, host side and orchestrator share this package, and nothing else.

Standard library only, Python 3.9: it is packed into the agent's zipapp. Every line is bounded by `framing`, every
field is typed and bounded by `fields`, every verb is declared once, with its arguments, its result and its deadline.
"""
