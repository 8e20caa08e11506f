"""Files that hosts without a shared disk hand to each other, through MLflow's artifact store.

Every file is kept under the digest of its content, so nothing is sent twice and nothing damaged is taken. Imports
nothing of MLflow's library: a worker and the process of a run use it before their work begins.
"""
