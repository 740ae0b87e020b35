"""A served model without its web server: what is asked, who answers, which version, what is logged.

`ftlib.on_ray.serving` puts it behind HTTP; nothing here knows of Ray.
"""
