"""What worker and run do where hosts share no disk: files come before a run, and go after it.

The room knows runs of Prefect; how files travel is the business of `tasks.store`.
"""
