"""Many runs that differ in numbers alone, trained as one stack of models."""
