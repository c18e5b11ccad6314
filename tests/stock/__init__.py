"""Doubles of a stock Arvados' parts, each written from its wire description alone and sharing no code with ours."""
