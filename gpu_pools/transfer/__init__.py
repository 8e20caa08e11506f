"""What the worker and the process of a run do on hosts without a shared disk: files come before, and go after.

The room knows runs of Prefect; how files travel is the business of `tasks.store`.
"""
