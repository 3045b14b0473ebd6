-- Values of the axes, production: every type, every code, every status.
-- Projects, plates, subposts and departments share this file; each profile keeps its own `typ`.
SELECT
    [typ],
    [client],
    [code],
    [description],
    [status],
    [date_from],
    [date_to]
FROM [AgrProd].[dbo].[v_N2F_Analytics];
