"""Roy, Panda & Roy (2019): its models, their training, all experiments and figures."""
