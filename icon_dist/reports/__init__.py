"""Pages and pictures about trained models.

The report of one run or several is in ``comparison.py`` (``icon-dist compare``), what a model gets wrong in
``diagnosis.py`` (``evaluate --diagnose``), the paper's tables in ``paper_tables.py``.
"""
