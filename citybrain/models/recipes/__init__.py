"""Recipes: one file for each algorithm that this project trains itself."""
