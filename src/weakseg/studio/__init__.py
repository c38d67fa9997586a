"""The review page: people look at masks, mend them and keep the good ones."""
