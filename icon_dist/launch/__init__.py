"""Running a training: launching workers, wrapping the optimizer, checkpoints. Ray and DeepSpeed are imported only here.

Importing the package itself, or ``engine.checkpoint``, needs neither.
"""
