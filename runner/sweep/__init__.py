"""Many runs: jobs in processes of their own, what a user sees of them, and how a sweep begins and ends."""
