"""Admission: what a stranger hands in becomes a package of safe formats, or a refusal.

Start reading at opening.py (what is it, and how does it become a package) and examining.py (is this
package harmless, and does it answer). Both run inside the sandbox; admit.py calls them from outside.
"""
