"""From measurements to records, verdicts, tables and figures."""
