"""What comes and goes over HTTP, whoever asks.

addresses    their form
network      one way out: proxies, redirects, certificates
bounded      bodies, read up to a limit
sound        JSON of others, made fit to keep
"""
