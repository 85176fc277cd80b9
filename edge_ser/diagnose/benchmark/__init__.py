"""How long answers take here: ``edge-ser benchmark``.

    measurement   every subject (a model in an engine) runs in turn, round after round -> Report
    report        the Report as a table, as JSON and back
    comparison    two Reports side by side; limits that a Report must keep
    histogram     where the times lie, as text or PNG

The base install is enough: what the machine says of itself is read by :mod:`edge_ser.diagnose.machine`.
"""
