"""Contracts of all Trimtab programs: the resources, the plan, the artifact and the report. Pure: no I/O, no clock."""
