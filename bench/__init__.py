"""Speed, measured in one run and told as ratios: `python -m bench`."""
