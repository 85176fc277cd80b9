"""Archives of recordings, labelled by every core or every machine into a Parquet dataset.

listing -> units -> label_unit, in the processes of a pool -> parts of the dataset -> summary, report
"""
