"""What a hostile developer would hand in: generators of files and folders, and the test of them.

No hostile byte lies in git: each case is a few lines that write it into a test's folder. A payload
only ever creates empty marker files, and the test finds none.
"""
