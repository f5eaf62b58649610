"""
A chat room, who is online, private notes and a live dashboard: what Alphavel does, in one small Flask application.

`make demo` starts it; README.md beside this file tells the rest.
"""
