"""The endpoints: each handler takes the service and a call, and returns an answer or raises a
refusal.
"""
