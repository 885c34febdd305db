"""One page about a representation: how good, how it came about, what it says of users.

``contents`` gathers what is shown, from a catalog, snapshots and the results of an evaluation, as
plain data; ``page`` turns it into one HTML file that needs nothing beside it.
"""
