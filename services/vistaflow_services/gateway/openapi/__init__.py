"""The OpenAPI document of the gateway, and the pages that show it.

openapi.yaml   the document, which `make proto` makes of the protos
pages.py       serves it, and Swagger UI and Redoc
"""
