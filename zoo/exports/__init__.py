"""The families of the zoo. Each module holds functions marked with `kit.family`, which yield exports."""
