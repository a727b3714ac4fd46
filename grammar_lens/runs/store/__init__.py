"""The run directory: results of a study in files that open without grammar_lens.

Arrays are safetensors, tables CSV and Parquet, the rest JSON. Every file is written under a
temporary name and renamed, so a file that is there is whole.
"""
