"""How many runs a design needs: the regret of the mixture that a fit proposes."""
