"""Many runs in one table and one picture.

Read from `result.json` and `config.yaml` of the runs' directories and from nothing else, so that it does not matter
which launcher ran them, or whether all of them ended.
"""
