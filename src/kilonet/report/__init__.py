"""What is known of runs, for people: the report page, the model card, the comparison of runs over seeds."""
