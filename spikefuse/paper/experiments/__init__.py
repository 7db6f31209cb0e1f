"""The experiments of Roy, Panda & Roy (2019): declarative entries, one runner, one report. Needs the `app` extra."""
