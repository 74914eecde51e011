"""What comes and goes over HTTP, whoever asks.

addresses    their form
network      one way out: proxies, redirects, certificates
bounded      bodies, read up to a limit
lean         httpx, without what nobody uses
sound        JSON of others, made fit to keep
"""
