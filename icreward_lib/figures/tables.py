"""Tables of intervals as texts, such as "0.541 [0.507, 0.575]"."""

import pandas as pd

from icreward_lib.stats import Interval


def pivot_intervals(rows: pd.DataFrame, index: str, columns: str, spec: str = ".3f") -> pd.DataFrame:
    """Rows with mean, low and high as a table of texts, in the order in which `index` and `columns` come."""
    cells = [format(Interval(m, low, high, 0), spec) for m, low, high in rows[["mean", "low", "high"]].to_numpy()]
    table = rows.assign(cell=cells).pivot(index=index, columns=columns, values="cell")
    return table.reindex(index=rows[index].unique(), columns=rows[columns].unique()).fillna("")


def join_intervals(table: pd.DataFrame, spec: str = ".3f") -> pd.DataFrame:
    """The columns `<name>`, `<name>_low` and `<name>_high` of a table as one column of texts each; others go."""
    cells = {}
    for name in (name for name in table if f"{name}_low" in table):
        parts = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        cells[name] = [format(Interval(mean, low, high, 0), spec) for mean, low, high in parts]
    return pd.DataFrame(cells, index=table.index)
